"""What sessions say, turn by turn, and what may come of each turn. Plans are few and fixed, so that
one undisturbed run of each is the reference for any number of sessions that follow it."""
import random

NAMES = ["Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Frances", "Ken"]
CITIES = ["Paris", "Rome", "Oslo", "Lima", "Cairo", "Tokyo"]
STORIES = ["Tell me a story about a fox.", "Tell me a story about a cat."]
COUNT = 24
TURNS = 5


class Turn:
    def __init__(self, text, kind="plain", flags=()):
        self.text, self.kind, self.flags = text, kind, [str(f) for f in flags]

    def argv(self, reference=False):
        """Flags of `limpet submit`; those of the reference let nothing end the turn early."""
        flags = list(self.flags)
        if not reference and self.kind == "deadline":
            flags += ["--deadline", "0.4"]
        if not reference and self.kind == "resident":
            flags += ["--require-resident"]
        return flags


def make(index):
    """Facts told early and asked for late, long output between: kills meet running jobs. A turn
    that may be stopped is the last one, since what it leaves is not the reference's."""
    r = random.Random(index)
    turns = [Turn(f"My name is {r.choice(NAMES)}."), Turn(f"I live in {r.choice(CITIES)}.")]
    while len(turns) < TURNS - 1:
        long = ["--max-tokens", r.choice([60, 160, 260]), "--ignore-eos"]
        if len(turns) == 3 and index % 6 == 0:
            long += ["--rewind-to", 8]
        turns.append(Turn(r.choice(STORIES), flags=long))
    last = index % 8
    if last == 1:
        turns.append(Turn(STORIES[0], "cancel", ["--max-tokens", 400, "--ignore-eos"]))
    elif last == 3:
        turns.append(Turn(STORIES[1], "deadline", ["--max-tokens", 400, "--ignore-eos"]))
    elif last == 5:
        turns.append(Turn("What is my name?", "resident"))
    else:
        turns.append(Turn(r.choice(["What is my name?", "What do you know about me?"])))
    for i, turn in enumerate(turns):
        turn.flags += ["--seed", str(1000 * index + i), "--temperature", "0.8" if index % 2 else "0",
                       "--priority", str(index % 3)]
    return turns


PLANS = {f"plan{i}": make(i) for i in range(COUNT)}


def kind(plan, turn):
    return PLANS[plan][turn].kind
