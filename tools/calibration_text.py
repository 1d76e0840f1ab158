"""Writes compiler/passes/quant/calibration/source.txt: sentences of our own, put together at random from a fixed seed.

    python tools/calibration_text.py > compiler/passes/quant/calibration/source.txt

Every topic has people, things, places, deeds and remarks; templates join them into sentences, and paragraphs mix
statements, questions, speech, lists, numbers and a few lines of code.
"""

import random
import sys

SIZE = 45_000
HEADER = (
    "A text to calibrate quantization with. It was generated for llmc by tools/calibration_text.py from words and "
    "sentences written for it; it is in the public domain (CC0). This paragraph is no part of it."
)

# A block for each topic; the choices for a word on a line.
WORDS = """
who: the miller | an old fisherman | her grandmother | the ferryman | two brothers from the valley
thing: a wooden boat | the broken wheel | a basket of apples | the letter | a lantern | wet rope
place: by the river | at the edge of the wood | under the stone bridge | in the market square
deed: mended | carried | looked for | sold | remembered | quietly gave away
why: the winter had been long | nobody else would | the water was rising | it was nearly dark
fact: The village has one street, two wells and a church without a tower.
fact: In spring the river leaves its bed and covers the lower fields with dark earth.
fact: A good rope outlives the boat that it holds, people say, and the boat outlives its owner.
fact: There was snow on the hills until May, and the sheep came down late.

who: the compiler | a small server | the scheduler | each worker | the second process | our parser
thing: the configuration file | a queue of requests | an index | the log | every cached page | a lock
place: in memory | on the other machine | before the first request | inside a transaction
deed: reads | rewrites | releases | checks | sorts | discards | waits for | allocates
why: a client may have changed it | the disk is slow | the order matters | an error must be reported
fact: If the port is in use, the program prints an error message and exits with status 2.
fact: The option takes a number of seconds; zero means that there is no limit at all.
fact: A function that returns early must still close what it has opened.
fact: Indexes make queries faster and updates slower, so measure both before you add one.
fact: The default is 30 seconds, and the largest value that is accepted is 3600.

who: the physician | a young nurse | the committee | most patients | researchers | one large study
thing: the treatment | a lower dose | blood pressure | the results | an early sign | the diagnosis
place: in a clinical trial | after the operation | during the first week | in older adults
deed: measured | compared | described | recommended | questioned | reported
why: the risk was small | symptoms often return | the evidence is limited | sleep had improved
fact: Of 412 people who took part, 37 left the study before its end.
fact: The heart of an adult beats about seventy times a minute, more than a hundred thousand times a day.
fact: Fever is not a disease; it is one of the ways in which the body defends itself.
fact: A difference of 0.3 between the groups may be due to chance (p = 0.21).

who: the astronomer | a retired teacher | Galileo's pupils | the expedition | a geologist
thing: a faint comet | the surface of the moon | old rocks | a glacier | the orbit | light from a star
place: through a small telescope | from the southern coast | above the clouds | in the desert
deed: observed | mapped | photographed | explained | doubted | calculated
why: the sky was clear | no instrument was precise enough | theory and measurement disagreed
fact: Light takes a little more than eight minutes to travel from the sun to the earth.
fact: Granite forms deep below the ground, where molten rock cools slowly and crystals have time to grow.
fact: The year on Mars has 687 days, and its seasons are nearly twice as long as ours.
fact: Water expands when it freezes, which is why ice floats and pipes burst.

who: the ministry | a group of farmers | the new mayor | voters | the central bank | an insurance firm
thing: the tax on land | a trade agreement | higher wages | the budget | a railway line | the contract
place: in the capital | before the election | at the port | across the border | in the last quarter
deed: proposed | rejected | signed | delayed | paid for | argued about
why: prices had doubled | exports fell by 12 percent | the law left no choice | the harvest was poor
fact: Between 1890 and 1910 the population of the city grew from 80,000 to more than a quarter of a million.
fact: A bank lends what others have saved, and lives on the difference between two rates of interest.
fact: The treaty has seven articles, of which only the third was ever applied.
fact: Bread cost four pence in the morning and six in the evening.

who: the cook | my neighbour | Maria | the youngest of the children | a guest | the baker's wife
thing: a pot of soup | the dough | three onions | fresh bread | a pinch of salt | the last pear
place: in the kitchen | over a low fire | on the table | at breakfast | in a cold cellar
deed: stirred | tasted | cut up | burnt | shared | forgot | warmed
why: everyone was hungry | the recipe said so | it smelled wonderful | the oven was too hot
fact: Mix 250 grams of flour with two eggs, add a cup of milk, and let it rest for half an hour.
fact: Cheese was once the only way to keep milk through the winter.
fact: Do not let the butter brown; take the pan off the fire as soon as it foams.
fact: Tea was weighed on a brass scale, and sugar was locked away in a tin box.

who: the violinist | a painter | the author | an audience of twelve | the museum | a careful reader
thing: the second movement | an unfinished portrait | a short poem | the stage | one long sentence
place: in an empty hall | on the last page | in the summer of 1924 | behind the curtain
deed: played | admired | misunderstood | praised | left out | described | copied
why: it was out of fashion | silence is part of music | the paint was still wet | critics had laughed
fact: A novel is a mirror that walks along a road, and sometimes the road walks back.
fact: The quartet was written in eleven days and not performed for thirty years.
fact: She painted the same hill every morning; no two of the pictures are alike.
fact: Good prose is like a window, but windows, too, are made by somebody.

who: a heron | the old oak | a swarm of bees | wolves | the gardener | a colony of ants
thing: the young shoots | its nest | seeds | a dead branch | the morning light | rainwater
place: in the reeds | under the roots | near the fence | all over the island | in late autumn
deed: guards | gathers | buries | follows | avoids | feeds on
why: food is scarce | the soil is poor | days grow shorter | predators hunt by sight
fact: A single oak can be home to more than three hundred kinds of insects.
fact: Bats find their way by sound: they cry out and listen for the echo.
fact: Moss has no roots; it drinks through its leaves.
fact: Swallows leave within a few days of one another, and nobody knows who gives the sign.
"""
SHAPES = [
    "{Who} {deed} {thing} {place}.",
    "{Who} {deed} {thing}, because {why}.",
    "Although {why}, {who} {deed} {thing} {place}.",
    "Why {who} {deed} {thing}, nobody can say; perhaps {why}.",
    '"{Why}," said {other}, "and that is all there is to it."',
    "It was {other} who first noticed that {why}.",
    "{Place}, {who} {deed} {thing}, and {other} {deed2} {thing2}.",
    "Do you know what {who} {deed} {place}? It was {thing}.",
    "When {why}, {who} {deed} either {thing} or {thing2}, but never both.",
    "There are {number} reasons for this: {thing}, {thing2}, and the fact that {why}.",
    "First {who} {deed} {thing}; then, {place}, {other} {deed2} {thing2}.",
    "{fact}",
    "{fact}",
    "{fact} However, {why}.",
]
CODE = [
    "def total(prices, rate=0.2):\n    return sum(prices) * (1 + rate)",
    "for name in sorted(names):\n    if name.startswith('a'):\n        print(name, len(name))",
    "SELECT name, count(*) FROM orders WHERE price > 100 GROUP BY name ORDER BY 2 DESC;",
    "$ tar -xzf archive.tar.gz && cd archive && make install",
    "1. Open the lid.  2. Remove the filter.  3. Rinse it with cold water.  4. Let it dry.",
    '{"id": 17, "tags": ["new", "blue"], "price": 9.95, "sold": false}',
]


def topics() -> list[dict[str, list[str]]]:
    """The choices for each word, by topic."""
    found = []
    for block in WORDS.strip().split("\n\n"):
        topic: dict[str, list[str]] = {}
        for line in block.splitlines():
            word, _, choices = line.partition(": ")
            topic.setdefault(word, []).extend(choices.split(" | "))
        found.append(topic)
    return found


TOPICS = topics()


def sentence(rng: random.Random, topic: dict[str, list[str]]) -> str:
    """One sentence about a topic."""
    picks = {key: rng.choice(values) for key, values in topic.items()}
    picks["other"] = rng.choice(rng.choice(TOPICS)["who"])
    picks["deed2"], picks["thing2"] = rng.choice(topic["deed"]), rng.choice(topic["thing"])
    picks["number"] = rng.choice(["two", "three", "at least five", "no good", "many"])
    picks |= {key.capitalize(): picks[key][0].upper() + picks[key][1:] for key in ("who", "why", "place")}
    return rng.choice(SHAPES).format(**picks)


def text(size: int, seed: int = 0) -> str:
    """Paragraphs of about `size` characters together."""
    rng = random.Random(seed)
    parts: list[str] = []
    while sum(map(len, parts)) < size:
        topic = rng.choice(TOPICS)
        parts.append(" ".join(sentence(rng, topic) for _ in range(rng.randint(2, 7))))
        if rng.random() < 0.08:
            parts.append(rng.choice(CODE))
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(f"{HEADER}\n\n{text(SIZE)}\n")
