"""Small lists of English words: closed classes, common adjectives and verbs, endings, and groups of synonyms."""

from __future__ import annotations

__all__ = ["ADJECTIVES", "CLOSED", "ENDINGS", "IRREGULAR", "NOUNS", "SYNONYMS", "VERBS"]

#: Penn tag -> all common words of a closed class.
CLOSED = {
    "DT": (
        "a an the this that these those each every another some any no all both either neither many several few much "
        "more most other others my your his her its our their whose such"
    ),
    "IN": (
        "of in on at by for with without from into onto upon over under above below between behind beside besides near "
        "next off out up down through across along around about against among amongst amid after before during inside "
        "outside beneath past since until till toward towards within beyond via per as like than if because while "
        "whilst although though whether unless atop aboard alongside underneath throughout despite except together "
        "away back forth to"
    ),
    "CC": "and or but nor yet so plus",
    "PRP": (
        "i you he she it we they me him us them himself herself itself themselves myself yourself someone somebody "
        "anyone anybody everyone everybody nobody none who whom which what something anything nothing everything "
        "oneself"
    ),
    "CD": (
        "one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred thousand "
        "dozen"
    ),
    "MD": "can could may might must shall should will would cannot",
    "RB": (
        "not never always often also too very just only even still again ever here there then now today when where why "
        "how almost away apart aside ahead else further perhaps maybe quite rather really soon together indoors "
        "outdoors midair upside downhill uphill downtown nearby once twice well n't"
    ),
}

ADJECTIVES = (
    "smaller larger bigger higher lower taller longer shaggy asleep floral athletic headfirst skimpy artificial scenic "
    "murky flowery electronic bouncy suburban muscular unusual industrial upward downward chubby puffy watery "
    "residential medieval misty swampy homemade spiky messy digital mossy ornate shady unique scruffy curvy stony "
    "onstage eastern western northern southern identical red blue green yellow brown black white grey gray pink purple "
    "orange tan beige golden blond blonde dark light bright pale colorful colourful multicolored colored coloured "
    "striped spotted plaid checkered big small large little tiny huge giant tall short long wide narrow thick thin "
    "high low deep shallow steep flat round square oval old young new older younger elderly adult teenage ancient "
    "modern antique vintage good bad nice great best better worse worst pretty beautiful lovely cute handsome ugly "
    "happy sad angry lazy quick fast slow calm busy empty full open closed hot cold warm cool wet dry dusty muddy "
    "sandy rocky snowy grassy icy foggy cloudy sunny rainy windy stormy hilly wooded leafy bushy dirty clean clear "
    "shiny dull rough smooth soft hard fluffy furry hairy curly fuzzy bald bare barefoot shirtless naked heavy strong "
    "weak rich poor fresh raw ripe sweet sour salty spicy tasty loud quiet silent noisy safe dangerous wild tame alive "
    "dead sick healthy hungry thirsty tired sleepy awake crazy funny silly scary strange odd normal ordinary usual "
    "rare common same different similar various main real fake true false whole half double single lone alone own "
    "first second third fourth fifth last final left right front upper inner outer top male female human royal rural "
    "urban local global national social formal casual professional traditional typical tropical medical musical "
    "electrical natural central several wooden woolen metallic asian american african european german french english "
    "british chinese japanese indian italian spanish mexican canadian australian russian inflatable stuffed crowded "
    "paved fenced bearded haired masked uniformed overcast topless steady ready sharp blunt broken tight loose free "
    "late early recent past able unable nearby remote distant close far outdoor indoor underwater airborne upright "
    "sideways vertical horizontal diagonal parallel opposite lit blurry cropped blank plain fancy simple complex easy "
    "difficult tough bumpy choppy bubbly cloudless barren lush frozen torn worn rusty sleek slim fat skinny"
)

#: Words that look like another class by their ending, or that are a verb too and rarely are one in a caption.
NOUNS = (
    "seaweed awning earring priest forest guest chest nest vest west test contest quest pest building clothing evening "
    "morning railing string ring king wing thing ceiling painting wedding swing spring sibling parking sling bathing "
    "crossing setting being beginning meeting bed sled shed seed weed speed breed feed moped olive hive archive "
    "detective native music traffic picnic public fabric plastic mosaic comic garlic topic attic clinic fish dish "
    "radish table cable vegetable stable bible animal hospital medal metal pedal sandal petal canal family lily belly "
    "jelly bully butterfly fly lady body baby puppy city party jersey bus dress grass glass cross surf park face hand "
    "head back dog water field beach ball street camera rock picture top side track path wave stick group front air "
    "mouth shirt toy wall crowd mountain hill trick ramp bench game race rope boat coat suit hat cap ski skis ice "
    "snowboard skateboard skateboarding snowboarding surfing skiing hiking fishing basketball football"
)

#: Base forms of common verbs whose other forms are regular.
VERBS = (
    "participate speak emerge descend ascend retrieve observe hear extend greet interact collide navigate direct "
    "defend wade pet travel trail play walk jump look climb watch chase race pose smile laugh talk perform carry pull "
    "push kick pass cross wait wave rest lean point reach touch grab pick drop lift raise turn roll flip slide glide "
    "float dive splash paddle row sail skate wrestle hug kiss dance clap cheer cook bake pour serve taste smell chew "
    "lick sniff bark stretch bend kneel crouch squat stare gaze glance peer seem appear wander stroll march hike jog "
    "sprint dash hop leap skip bounce trot gallop approach enter exit leave follow lead arrive move stop start begin "
    "finish try attempt prepare work use help show display contain include cover surround hang attach connect fill "
    "pack load unload wash brush comb dress decorate paint clean fix repair tow dig rake plant water feed shake twist "
    "balance perch rope scale land crash fall gather pile stack line crawl sneak hide peek chat argue gesture whisper "
    "shout scream yell cry grin frown pretend surf ski snowboard skateboard compete celebrate relax enjoy admire "
    "examine inspect study learn teach practice photograph film record listen sing hold toss hurl bat punt tackle "
    "block dribble shoot aim swim ride run sit stand"
)

#: Forms of irregular verbs.
IRREGULAR = (
    "stuck spoke speaks speaking heard grown became becomes be am is are was were been being have has had having do "
    "does did done doing go goes went gone going get gets got getting ran swam swum rode ridden sat stood held threw "
    "thrown caught took taken gave given made ate eaten drank drunk slept lay laid lain fell fallen flew flown drove "
    "driven wore worn came become saw seen found kept left led lit met put read said sent shot shown sang sung sank "
    "slid spoken sprang spread swung told thought wrote written built bent bit bitten blew blown bought brought broke "
    "chose cut dug drew drawn fed felt fought hid hidden hit hung knelt leapt take takes taking throw throws throwing "
    "catch catches catching give gives giving make makes making eat eats eating drink drinks drinking sleep sleeps "
    "sleeping lie lies lying fall falls falling fly flies flying drive drives driving wear wears wearing come comes "
    "coming see sees seeing find finds finding keep keeps keeping puts putting reads reading say says saying spreads "
    "spreading write writes writing build builds blow blows blowing bring brings bringing break breaks breaking cuts "
    "cutting draw draws drawing fight fights fighting hits hitting swing swings swinging bite bites biting want wants "
    "wanting need needs know knows feel feels let lets set sets dressed gathered covered surrounded seated parked "
    "let's ties tied tying dying dyed"
)

#: Endings of words in no list; the first that fits counts.
ENDINGS = (
    ("ly", "RB"),
    ("ing", "VB"),
    ("ed", "VB"),
    ("ous", "JJ"),
    ("ful", "JJ"),
    ("less", "JJ"),
    ("able", "JJ"),
    ("ible", "JJ"),
    ("ish", "JJ"),
    ("ical", "JJ"),
    ("ive", "JJ"),
    ("est", "JJ"),
)

#: Words that may stand for one another in a caption, in groups between bars.
SYNONYMS = (
    "picture image photo photograph | drawing sketch | big large | huge enormous giant | small little | kid child "
    "youngster | kids children youngsters | man guy | men guys | woman lady | women ladies | person human individual | "
    "people persons | boat vessel | bike bicycle cycle | bikes bicycles | car automobile | street road | sidewalk "
    "pavement | forest woods | hill slope | mountain peak | ocean sea | shore coast | stone rock | stones rocks | dog "
    "hound | puppy pup | cat feline | horse steed | coat jacket | pants trousers | shoes footwear | hat cap | gray "
    "grey | tan beige | blond blonde | bright vivid | happy cheerful joyful | pretty beautiful lovely | quick fast "
    "rapid | quickly rapidly | wet soaked | young youthful | near beside | over above | below under beneath | holds "
    "grips | holding gripping | looks gazes | looking gazing | jumps leaps | jumping leaping | walks strolls | walking "
    "strolling | throws tosses | throwing tossing | smiles grins | smiling grinning | shows displays | circle disc "
    "disk"
)
