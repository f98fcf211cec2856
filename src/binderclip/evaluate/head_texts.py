"""General descriptions of pictures, to name what heads look at: colours, counts, places, things, styles."""

from __future__ import annotations

import re
from functools import cache

__all__ = ["descriptions"]

_COLOURS = "red orange yellow green cyan blue purple pink brown black white grey beige gold silver turquoise".split()
_COUNTS = "one two three four five six seven eight many no".split()
_SHAPES = (
    "circle ring square diamond triangle star hexagon cross heart crescent line spiral cube sphere cone arch".split()
)
_SPOTS = (
    "in the centre,in a corner,at the top,at the bottom,on the left,on the right,at the edge,in the foreground,"
    "in the background,far away,very close,everywhere"
).split(",")
_TEXTURES = (
    "striped,dotted,checked,plain,shiny,matt,rough,smooth,furry,feathered,scaly,woven,knitted,wooden,metallic,glassy,wet,"
    "dusty,rusty,cracked,wrinkled,transparent,speckled,brick,stone,leather,paper,plastic,marble,sandy"
).split(",")
_PLACES = (
    "beach,forest,mountain,desert,lake,river,sea,field,garden,park,street,city,village,kitchen,bedroom,bathroom,office,"
    "classroom,library,hospital,church,castle,bridge,station,airport,harbour,shop,market,restaurant,bar,stage,stadium,gym,"
    "museum,factory,workshop,farm,barn,zoo,cave,island,glacier,swamp,waterfall,road,tunnel,roof,stairs,attic,cellar,"
    "playground,swimming pool,car park,building site,space,sky"
).split(",")
_LANDS = (
    "Africa,Asia,Europe,America,Australia,India,China,Japan,Brazil,Mexico,Egypt,Italy,France,Norway,Russia,Kenya,New York,"
    "Paris,London,Venice,the Arctic,the Alps,the Sahara"
).split(",")
_BEASTS = (
    "dog,cat,horse,cow,sheep,pig,goat,deer,bear,lion,tiger,elephant,giraffe,zebra,monkey,rabbit,mouse,squirrel,fox,wolf,"
    "bird,duck,chicken,eagle,owl,parrot,penguin,fish,shark,whale,frog,snake,lizard,turtle,crocodile,bee,butterfly,spider,"
    "beetle,ant,snail,crab,octopus,jellyfish,coral,worm"
).split(",")
_PLANTS = "tree,flower,rose,grass,leaf,mushroom,cactus,palm,moss,vine,bush,seed,root,branch".split(",")
_FOOD = (
    "apple,banana,orange,strawberry,grapes,lemon,tomato,potato,carrot,corn,bread,cake,pizza,cheese,meat,soup,salad,rice,egg,"
    "ice cream,chocolate,coffee,wine,beer,water,sandwich,noodles"
).split(",")
_THINGS = (
    "car,truck,bus,train,bicycle,motorbike,aeroplane,helicopter,boat,ship,rocket,wheel,house,tower,door,window,chair,table,"
    "bed,lamp,sofa,shelf,mirror,clock,book,newspaper,letter,pen,bag,box,bottle,cup,plate,spoon,knife,pan,fork,vase,candle,"
    "key,coin,ring,crown,hat,shirt,dress,shoe,glove,scarf,glasses,umbrella,mask,helmet,uniform,tie,computer,telephone,"
    "television,camera,keyboard,microphone,guitar,piano,violin,drum,trumpet,ball,kite,toy,doll,dice,racket,ski,tent,rope,"
    "ladder,hammer,saw,drill,nail,chain,pipe,wire,fence,gate,flag,sign,statue,fountain,bell,sword,gun,machine,engine,robot,"
    "balloon,basket,broom,bucket,carpet,curtain,pillow,blanket,towel,soap,brush,comb,needle,thread"
).split(",")
_PEOPLE = (
    "man,woman,boy,girl,baby,child,old person,crowd,couple,family,face,hand,eye,mouth,foot,head,hair,beard,smile,soldier,"
    "doctor,cook,farmer,dancer,singer,athlete,king,teacher,worker,bride"
).split(",")
_DEEDS = (
    "running,walking,jumping,swimming,flying,sleeping,eating,drinking,reading,writing,playing,fighting,dancing,singing,"
    "cooking,working,driving,riding,climbing,falling,sitting,standing,lying,looking,talking,laughing,crying,holding,throwing,"
    "hugging,hunting,fishing,cleaning,building,growing,burning,melting,breaking,floating,hiding,waiting"
).split(",")
_TIMES = (
    "morning,noon,evening,night,spring,summer,autumn,winter,sunrise,sunset,rain,snow,fog,storm,sunshine,clouds,wind,lightning,"
    "a rainbow,ice,fire,smoke,shadow,moonlight"
).split(",")
_STYLES = (
    "photo,painting,drawing,sketch,cartoon,sculpture,collage,diagram,map,chart,screenshot,logo,icon,poster,stamp,advert,"
    "X-ray,microscope picture,satellite picture,aerial view,close-up,portrait,panorama,silhouette,pattern,mosaic,graffito,"
    "old photo,black and white photo,blurred photo,noisy photo,sharp photo,dark photo,bright photo,colourful photo,"
    "low-quality photo,professional photo,cropped photo,upside-down photo,reflection,double exposure"
).split(",")
_MOODS = (
    "happy,sad,angry,calm,frightening,funny,romantic,lonely,festive,solemn,strange,dreamy,elegant,poor,rich,old,new,dirty,"
    "clean,empty,crowded,messy,tidy,dangerous,peaceful,natural,artificial,simple,complex,symmetric,abstract"
).split(",")
_LETTERS = (
    "a word,a number,a date,handwriting,the letter A,the letter O,a question mark,a sentence,a label,a barcode".split(
        ","
    )
)


@cache
def descriptions() -> tuple[str, ...]:
    """About 1,200 of them, each once, in a fixed order."""
    found: list[str] = []
    for words, sentences in (
        (_COLOURS, ("the colour {}", "a {} thing", "a {} background", "a picture in shades of {}", "a small {} spot")),
        (_COUNTS, ("{} objects", "{} people", "{} animals")),
        (_SHAPES, ("a {}", "the shape of a {}", "a pattern of {}s")),
        (_SPOTS, ("something {}", "an object {}")),
        (_TEXTURES, ("a {} surface", "a {} thing", "a {} background")),
        (_PLACES, ("a photo taken in a {}", "a {}", "a {} in the background")),
        (_LANDS, ("a photo taken in {}", "culture of {}")),
        (_BEASTS, ("a photo of a {}", "several of a kind: {}")),
        (_PLANTS + _FOOD, ("a photo of a {}", "a pile of {}")),
        (_THINGS, ("a photo of a {}", "part of a {}")),
        (_PEOPLE, ("a photo of a {}", "a picture with a {} in it")),
        (_DEEDS, ("somebody {}", "an animal {}")),
        (_TIMES, ("{}", "a photo taken in {}")),
        (_STYLES, ("a {}", "this is a {}")),
        (_MOODS, ("a {} scene", "a {} thing", "something {}")),
        (_LETTERS, ("{}", "a picture with {} in it")),
    ):
        found += [_put(sentence, word) for sentence in sentences for word in words]
    return tuple(dict.fromkeys(found))


def _put(sentence: str, word: str) -> str:
    article = "an" if re.match(r"[aeiouAEIO]|X-", word) and not word.startswith("uni") else "a"
    return re.sub(r"\ba \{\}", f"{article} {{}}", sentence).replace("{}", word)
