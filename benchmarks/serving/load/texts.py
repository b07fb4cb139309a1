"""Texts of realistic lengths and arrival times for the serving benchmark."""

from typing import Final

import numpy as np
import numpy.typing as npt

# Log-normal like the lengths of sentences and reviews: most are short, a few reach the limit of the model.
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
    """Return the token counts of `count` texts, at most `longest`, special tokens included."""
    drawn = np.random.default_rng(seed).lognormal(np.log(MEDIAN_TOKENS), SPREAD, count)
    limit = min(LONGEST, longest)
    return np.clip(np.rint(drawn), min(SHORTEST, limit), limit).astype(np.int64)


def texts(count: int, seed: int, longest: int = LONGEST) -> list[str]:
    """Return texts of common English words, each of which is one token."""
    words, draw = WORDS.split(), np.random.default_rng(seed + 1)
    return [" ".join(draw.choice(words, tokens - SPECIAL_TOKENS)) for tokens in lengths(count, seed, longest)]


def poisson_arrivals(rate: float, seconds: float, seed: int) -> npt.NDArray[np.float64]:
    """Return sorted arrival times in [0, `seconds`) of a Poisson process with `rate` arrivals per second.

    Given their number, the arrivals of a Poisson process are uniform.
    """
    draw = np.random.default_rng(seed)
    return np.sort(draw.uniform(0, seconds, draw.poisson(rate * seconds)))
