"""What the simulated provider says: readable sentences on the topic of a prompt, chosen by a number."""

from __future__ import annotations

_CHARACTERS_PER_TOKEN = 4

_OPENINGS = (
    "Three things stand out about {}.",
    "In short, {} is moving faster than most teams expected.",
    "The evidence on {} points one way.",
    "Start with what is known about {}.",
    "Seen from a distance, {} looks settled; up close it does not.",
    "The question behind {} is who pays, and when.",
)
_MIDDLES = (
    "Demand grew by {n} percent over the last four quarters, most of it from existing customers.",
    "Two of the {n} sources reviewed disagree on the size of the effect, not on its direction.",
    "The cheapest option saves about {n} percent but needs a second supplier to be safe.",
    "Teams that started small and measured weekly reached their goal {n} days sooner.",
    "A pilot with {n} users showed no change in quality and a clear drop in waiting time.",
    "The largest risk is a single dependency that serves {n} percent of the traffic.",
    "Prices differ by a factor of {n} between regions, mainly through support and egress.",
    "Of {n} complaints in the sample, most concern how long an answer takes rather than what it says.",
    "Renewals hold at {n} percent where onboarding is finished within the first month.",
    "A rival announced a similar offer {n} weeks ago and has not shipped it yet.",
)
_CLOSINGS = (
    "The next step is a short trial with a fixed budget.",
    "It is worth deciding before the quarter ends.",
    "A second look at the numbers in two weeks would settle it.",
    "Nothing here blocks a start on Monday.",
    "Keep the scope narrow and publish what you learn.",
)
_DULL = (
    " about after again their there these those which while where would should could write collect using please facts "
    "three briefly answer result results every other three-line summary summarise summarize given "
)


def topic_of(prompt: str) -> str:
    """The last telling words at the start of a prompt: what an answer can plausibly be about."""
    words = [word.strip(".,:;!?()[]{}\"'*#`") for word in prompt[:160].split()]
    telling = [word for word in words if len(word) > 4 and f" {word.lower()} " not in _DULL and "\\" not in word]
    return " ".join(telling[-3:]) or "this"


def compose(topic: str, draw: int, tokens: int) -> str:
    """Readable sentences on ``topic``, chosen by ``draw``, of at most ``tokens`` tokens."""
    room = tokens * _CHARACTERS_PER_TOKEN
    sentences = [_OPENINGS[draw % len(_OPENINGS)].format(topic)]
    length = len(sentences[0])
    step, at, number = 1 + draw // 7 % (len(_MIDDLES) - 1), draw // 11, draw // 13
    for _ in range(len(_MIDDLES)):
        if length + 140 > room:
            break
        at += step
        number = number // 3 + 17
        sentence = _MIDDLES[at % len(_MIDDLES)].format(n=2 + number % 61)
        if sentence in sentences:
            continue
        sentences.append(sentence)
        length += len(sentence) + 1
    sentences.append(_CLOSINGS[draw // 17 % len(_CLOSINGS)])
    return " ".join(sentences)[:room].rstrip()
