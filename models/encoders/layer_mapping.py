"""Which layers, or dimensions, of a larger network those of a smaller one stand for: a uniform choice of both."""


def uniform_choice(total: int, kept: int) -> tuple[int, ...]:
    """Indices of `kept` out of `total`, evenly spaced, in order, of which the last one is always `total - 1`.

    The i-th, from 1, is round(i * total / kept) - 1, halves rounded up: the uniform mapping g(m) = m * N / M of
    TinyBERT (Jiao et al. 2020, arXiv 1909.10351, section 3.1), which for half of the layers is DistilBERT's every other
    one (Sanh et al. 2019, arXiv 1910.01108, section 3).

    Raises:
        ValueError: `kept` is not between 1 and `total`.
    """
    if not 1 <= kept <= total:
        raise ValueError(f"{kept} of {total} cannot be chosen: choose between 1 and {total}")
    return tuple((2 * place * total + kept) // (2 * kept) - 1 for place in range(1, kept + 1))


def hidden_state_mapping(student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """For each of the student's hidden states, the teacher's that it imitates, of `teacher_layers` + 1.

    Index 0 is the embeddings' output, which stands for the embeddings' output; index i is the output of layer i.

    Raises:
        ValueError: the student has more layers than the teacher, or none.
    """
    return (0, *(layer + 1 for layer in uniform_choice(teacher_layers, student_layers)))
