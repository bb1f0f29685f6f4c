"""Makes presets/samples: contexts with questions for the workbench.

The prose is our own: sentences from the small grammar below, so that nothing in it need be licensed and the length can be
chosen.  The facts are phrased as the embedded model's training data phrases them (presets/model/recipe/synth.py).

usage: make_samples.py   (needs the `tokenizers` package, to count tokens)
"""
import json
import pathlib
import random

from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "presets" / "samples"
TOKENIZER = Tokenizer.from_file(str(ROOT / "presets" / "model" / "tokenizer.json"))

WHEN = ("In early spring", "Toward the end of summer", "On most mornings", "After the long rains", "In the colder months",
        "During the harvest", "At the turn of the year", "Before the first frost", "On market days", "Late in the evening",
        "When the wind turns north", "In the weeks of high water", "On quiet afternoons", "Soon after sunrise")
WHO = ("the ferrymen", "the older weavers", "the children of the lower town", "the gardeners", "two or three boat builders",
       "the people who keep the mill", "the shepherds", "the night watch", "the men at the lime kiln", "the charcoal burners",
       "the pupils of the music school", "the stonecutters", "the women from the salt works", "the keepers of the orchard")
DO = ("carry baskets of reeds down to the landing", "mend the low wall that runs along the meadow", "set out long tables under the chestnut trees",
      "walk the path over the ridge and back again", "clear the ditches with hooks and wooden rakes",
      "gather by the old well to exchange what they have heard", "bring the boats up onto the gravel and tar them",
      "count the sacks twice and write the sum on a slate", "lay the nets out to dry between the posts",
      "sweep the leaves into heaps and burn them slowly", "rest in the shade of the granary until the heat has passed",
      "repair the sluice so that the upper fields get their share", "sort the apples by hand and wrap the best of them in paper",
      "listen for the bell that calls them back to work")
WHY = ("because the ground is still too wet to plough", "since nobody remembers another way of doing it",
       "so that nothing is left lying about when the storms come", "as their parents did before the new road was cut",
       "and no one thinks it worth remarking on", "although the work is seldom finished in one day",
       "while the kettle hums on the iron stove", "for there is little else to do before supper",
       "and the dogs follow at some distance", "until the light is gone from the slope")
PLACE = ("The lane behind the tannery", "A narrow stair of slate", "The meadow below the dam", "The square in front of the weigh house",
         "A row of poplars", "The long shed near the quay", "The garden of the old school", "A bridge of three arches",
         "The track to the high pasture", "The pond at the edge of the wood", "A chapel with a shingled roof", "The yard of the rope walk")
IS = ("is damp for most of the year", "was widened when the carts grew heavier", "smells of resin and warm dust",
      "lies in shadow from noon onward", "is used by everyone and owned by nobody", "has been drawn by every painter who passed through",
      "looks larger in fog than it is", "was once fenced on all sides", "gives a good view of the water", "fills with swallows in the warm season",
      "is crossed by a dozen footpaths", "ends where the hedges begin")
MORE = ("Visitors seldom notice it", "There are plans to change this", "The records say little about it", "It has been so for longer than anyone can tell",
        "A stranger would not guess the reason", "Nothing about it is written down", "The rest is a matter of habit",
        "Some call it a waste of good timber", "It takes patience rather than strength", "The sound carries as far as the hills",
        "In dry years it is hardly worth the trouble", "Opinions differ on who began it")
TAIL = ("and that is usually the end of the matter", "but few would give it up", "though the young laugh at it",
        "and the talk turns to other things", "at least in ordinary years", "which suits most of them well enough",
        "if the old people are to be believed", "and nobody hurries")


def sentence(rng):
    kind = rng.randrange(4)
    if kind == 0:
        return f"{rng.choice(WHEN)} {rng.choice(WHO)} {rng.choice(DO)}, {rng.choice(WHY)}."
    if kind == 1:
        return f"{rng.choice(PLACE)} {rng.choice(IS)}, {rng.choice(TAIL)}."
    if kind == 2:
        return f"{rng.choice(MORE)}, {rng.choice(TAIL)}."
    who = rng.choice(WHO)
    return f"{who[0].upper()}{who[1:]} {rng.choice(DO)}, and {rng.choice(WHEN).lower()} they {rng.choice(DO)}."


def n_tokens(text):
    return len(TOKENIZER.encode(text, add_special_tokens=False).ids)


def prose(rng, tokens):
    """Paragraphs, each a list of sentences, of about this many tokens together."""
    paragraphs, total = [], 0
    while total < tokens:
        paragraphs.append([sentence(rng) for _ in range(rng.randint(4, 7))])
        total += n_tokens(" ".join(paragraphs[-1])) + 1
    return paragraphs


def hide(paragraphs, facts):
    """Puts (depth, sentence) pairs into the prose, depth in 0..1."""
    for depth, fact in facts:
        paragraph = paragraphs[int(depth * (len(paragraphs) - 1))]
        paragraph.insert(len(paragraph) // 2, fact)
    return "\n\n".join(" ".join(p) for p in paragraphs) + "\n"


def write(name, title, order, context, questions):
    (OUT / f"{name}.txt").write_text(context)
    sample = {"name": name, "title": title, "order": order, "context_file": f"{name}.txt", "questions": questions}
    (OUT / f"{name}.json").write_text(json.dumps(sample, indent=2) + "\n")
    print(f"{name}: {n_tokens(context)} tokens, {len(context)} bytes")


def main():
    rng = random.Random(4)
    write("needle-4k", "Needle: one number in 4k tokens of prose", 2,
          hide(prose(rng, 4000), [(0.4, "One of the special magic numbers for quiet harbor is: 7402913.")]),
          ["What is the special magic number for quiet harbor?",
           "What is the special magic number for quiet harbor mentioned in the provided text?"])
    write("facts-12k", "Facts: six of them in 12k tokens of prose", 3,
          hide(prose(rng, 12000), [
              (0.06, "The Keller Museum was founded in 1874."),
              (0.22, "The password of the rusty gate is silver-walnut."),
              (0.38, "Amara Novak was born in Bergen."),
              (0.55, "The capital of Tormere is Quorwick."),
              (0.70, "Dr. Hale owns a turquoise telescope."),
              (0.88, "Mount Zelvar is 4821 meters high.")]),
          ["What is the capital of Tormere?", "When was the Keller Museum founded?", "Where was Amara Novak born?",
           "What is the password of the rusty gate?"])


if __name__ == "__main__":
    main()
