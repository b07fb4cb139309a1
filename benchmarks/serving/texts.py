"""What the load of the serving benchmark is made of: texts of realistic lengths, and the times at which they arrive."""

from typing import Final

import numpy as np
import numpy.typing as npt

# Log-normal, as lengths of sentences and reviews are: most are short, a few are as long as the model takes.
MEDIAN_TOKENS: Final = 28
SPREAD: Final = 0.7
SHORTEST: Final = 8
LONGEST: Final = 128
SPECIAL_TOKENS: Final = 2
WORDS: Final = (
    "the a of and to is in that it with as for this film but its on an you be more by one than not about like from "
    "movie has are all so at too story his out just into have or characters what up time good funny even most comedy "
    "been never make way little life work who much no there only will well their some can plot us love does new best "
    "when makes which enough bad if great director they feels through people performance made do off action drama long "
    "humor heart sense world cast real your own old hard first young another kind something watch audience family scene"
)


def lengths(count: int, seed: int, longest: int = LONGEST) -> npt.NDArray[np.int64]:
    """Tokens of each of `count` texts, at most `longest`, those that every text has at its ends included."""
    drawn = np.random.default_rng(seed).lognormal(np.log(MEDIAN_TOKENS), SPREAD, count)
    limit = min(LONGEST, longest)
    return np.clip(np.rint(drawn), min(SHORTEST, limit), limit).astype(np.int64)


def texts(count: int, seed: int, longest: int = LONGEST) -> list[str]:
    """Texts of common words, which tokenizers of English keep whole: a word is a token."""
    words, draw = WORDS.split(), np.random.default_rng(seed + 1)
    return [" ".join(draw.choice(words, tokens - SPECIAL_TOKENS)) for tokens in lengths(count, seed, longest)]


def poisson_arrivals(rate: float, seconds: float, seed: int) -> npt.NDArray[np.float64]:
    """Seconds of arrivals in [0, `seconds`), sorted: independent ones, `rate` a second on average.

    Given their number, arrivals of a Poisson process are uniform; so the same seed at another rate draws another load
    of the same kind.
    """
    draw = np.random.default_rng(seed)
    return np.sort(draw.uniform(0, seconds, draw.poisson(rate * seconds)))
