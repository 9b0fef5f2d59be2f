"""What a person is asked to do where the corpus says nothing: prompts for tuning on photographs.

Fifty, as PersonalVideo (arXiv:2411.17048) has, so that one person is rewarded in many scenes and
not in that of the photographs; written for this project. ``{}`` is the class, such as "person".
"""

from pathlib import Path

from infra.errors import BadValue, UnreadableSource

PROMPTS = (
    "a {} reading a book in a library",
    "a {} walking along a beach at sunset",
    "a {} cooking in a bright kitchen",
    "a {} riding a bicycle through a park",
    "a {} playing the guitar on a small stage",
    "a {} drinking coffee at a street café",
    "a {} laughing with a friend who is out of view",
    "a {} typing on a laptop in an office",
    "a {} turning the head and smiling",
    "a {} nodding while listening",
    "a {} waving at the camera",
    "a {} speaking into a microphone",
    "a {} in a doctor's coat, explaining something",
    "a {} in a spacesuit, looking at the earth",
    "a {} in a suit of armour, in a castle",
    "a {} in a raincoat, under an umbrella in the rain",
    "a {} in a winter coat while snow falls",
    "a {} wearing a straw hat in a field of wheat",
    "a {} wearing headphones, moving to music",
    "a {} wearing glasses, reading a newspaper",
    "a {} wearing a red scarf in the wind",
    "a {} painting at an easel",
    "a {} watering plants on a balcony",
    "a {} eating an apple",
    "a {} tasting soup from a spoon",
    "a {} looking out of the window of a train",
    "a {} driving a car at night",
    "a {} climbing a rocky hill",
    "a {} rowing a boat on a lake",
    "a {} running on a forest path",
    "a {} dancing in a living room",
    "a {} stretching on a yoga mat",
    "a {} petting a dog",
    "a {} holding a sleeping cat",
    "a {} feeding pigeons in a square",
    "a {} buying flowers at a market",
    "a {} carrying a stack of books",
    "a {} writing on a blackboard",
    "a {} repairing a bicycle in a workshop",
    "a {} blowing out the candles of a cake",
    "a {} opening a letter, surprised",
    "a {} looking up at fireworks",
    "a {} yawning in the morning light",
    "a {} frowning over a game of chess",
    "a {} singing in a choir",
    "a {} conducting an orchestra",
    "a {} on a mountain top, breathing in",
    "a {} in a neon-lit street at night",
    "a {} beside a campfire, face lit by the flames",
    "a {} under water in a swimming pool, eyes open",
)


def prompts(path: str, class_word: str) -> list[str]:
    """Return the prompts of a file, or without one those above, with the class in them.

    Raises:
        UnreadableSource: There is no such file.
        BadValue: It has no prompts, or one has no place for the class.
    """
    told = list(PROMPTS)
    if path:
        if not Path(path).is_file():
            raise UnreadableSource(path, "it does not exist", "Name a file of prompts.")
        told = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    if not told:
        raise BadValue("video.prompts", path, "it is empty; write one prompt per line.")
    if bad := [prompt for prompt in told if prompt.count("{}") != 1]:
        raise BadValue("video.prompts", bad[0], "put {} where the class is to be, once.")
    return [prompt.replace("{}", class_word) for prompt in told]
