"""Uniform mapping of the layers, heads or features of a smaller network to those of a larger one."""


def uniform_choice(total: int, kept: int) -> tuple[int, ...]:
    """Return `kept` evenly spaced indices out of `total`, in order; the last one is always `total - 1`.

    Index i, counted from 1, is round(i * total / kept) - 1, with halves rounded up. This is the uniform mapping
    g(m) = m * N / M of TinyBERT (Jiao et al. 2020, arXiv 1909.10351, section 3.1). For half of the layers it is every
    other layer, as in DistilBERT (Sanh et al. 2019, arXiv 1910.01108, section 3).

    Raises:
        ValueError: `kept` is not between 1 and `total`.
    """
    if not 1 <= kept <= total:
        raise ValueError(f"cannot choose {kept} of {total}; choose between 1 and {total}")
    return tuple((2 * place * total + kept) // (2 * kept) - 1 for place in range(1, kept + 1))


def hidden_state_mapping(student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """Return for each hidden state of the student the index of the teacher's hidden state that it imitates.

    Index 0 is the output of the embeddings, which maps to itself; index i is the output of layer i.

    Raises:
        ValueError: the student has no layers, or more than the teacher.
    """
    return (0, *(layer + 1 for layer in uniform_choice(teacher_layers, student_layers)))
