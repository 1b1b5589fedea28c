"""Text for the example inputs of language models: everyday, technical and formal English of different lengths.

An int8 linear is smoothed on the example, so the tokens have to be ones that a model meets in earnest: questions, names, numbers,
punctuation, short queries beside whole paragraphs. Made-up token ids would smooth the wrong channels.
"""

from __future__ import annotations

#: From a short query to a paragraph of a hundred tokens or so; the order mixes lengths, so any first few do as well.
TEXTS = (
    "How do I reset the password of my account?",
    "The committee met on Tuesday, 14 March, and agreed to postpone the vote until the auditors have finished "
    "their report. Three of the eleven members objected: in their view the figures for the last quarter, which "
    "show a loss of 2.4 million, leave no doubt about what has to be done. The chair replied that a decision of "
    "this weight should rest on numbers that nobody can dispute, and that two more weeks would do no harm.",
    "best coffee near the old harbour",
    "In 1889 the engineer moved to Buenos Aires, where she designed bridges, taught mathematics and wrote the "
    "letters that made her famous after her death.",
    "The function returns None if the key is missing; otherwise it returns a copy of the list, so that changes "
    "made by the caller are not seen by anyone else. Passing a negative index raises a ValueError.",
    "I loved the first half of this film, but the ending felt rushed, and the music was far too loud. Would not "
    "watch it again.",
    "Water boils at a lower temperature in the mountains because the pressure of the air is lower there. At sea "
    "level it boils at 100 degrees Celsius; at a height of 3,000 metres it boils at about 90. That is why pasta "
    "takes longer to cook in a mountain hut, and why recipes for bread have to be changed: the dough rises "
    "faster, dries out sooner and needs a hotter oven. Cooks who live up there learn all this from their parents; "
    "everybody else learns it from a ruined dinner.",
    '"Are you coming?" Anna asked. "In a minute," said Tom, and went on reading.',
)

#: Questions with the passages that answer them, for models that read two texts.
PAIRS = tuple(
    zip(
        (
            "What should I do when I have forgotten my password?",
            "When did the committee meet?",
            "What is the user looking for?",
            "Where did the engineer live?",
            "What happens for a negative index?",
            "What did the viewer dislike?",
            "At which temperature does water boil at 3,000 metres?",
            "What was Tom doing?",
        ),
        TEXTS,
        strict=True,
    )
)
