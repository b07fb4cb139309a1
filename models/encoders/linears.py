"""What is pruned: the encoder's linears, found by structure so that no architecture needs a list of names."""

from torch import nn

from sparserve.models.errors import CheckpointError


def encoder_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linears of every transformer layer, by module name, in the model's order.

    Six a layer in BERT-family models: query, key, value, attention output, FFN in, FFN out. Embeddings, pooler and
    classifier are not among them.

    Raises:
        CheckpointError: the model has no stack of layers with linears.
    """
    name, layers = transformer_layers(model)
    return {
        f"{name}.{index}.{inner}": module
        for index, layer in enumerate(layers)
        for inner, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    }


def transformer_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The stack of transformer layers and its module name: the list of modules that holds most parameters.

    Raises:
        CheckpointError: there is no such list.
    """
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(isinstance(m, nn.Linear) for m in module.modules())
    ]
    if not stacks:
        raise CheckpointError(
            f"{type(model).__name__} has no stack of transformer layers with linears: it cannot be pruned; "
            "give a BERT-family encoder"
        )
    return max(stacks, key=lambda stack: sum(p.numel() for p in stack[1].parameters()))
