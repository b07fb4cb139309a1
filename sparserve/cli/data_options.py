"""Options of files of texts, which several commands share."""

from typing import Annotated, Final

import typer

DATA: Final = "Data"

TextColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Column of the text. Default: detected from the data (and printed). May be repeated: the columns are "
        "joined by a space.",
        rich_help_panel=DATA,
    ),
]
TextPairColumnOption = Annotated[
    str | None,
    typer.Option(
        help="Column of the second text of a pair; '' if there is none. Default: detected from the data.",
        rich_help_panel=DATA,
    ),
]
HeaderOption = Annotated[
    bool | None,
    typer.Option(
        help="The first row of the file names its columns. Default: detected from the data.", rich_help_panel=DATA
    ),
]
DelimiterOption = Annotated[
    str | None,
    typer.Option(
        help="Characters between the fields of a CSV file, or tab, space, semicolon, pipe. Default: detected.",
        rich_help_panel=DATA,
    ),
]
QuoteOption = Annotated[
    str | None,
    typer.Option(help="Character around the fields of a CSV file, or none. Default: detected.", rich_help_panel=DATA),
]
EscapeOption = Annotated[
    str | None,
    typer.Option(
        help="Character before a quote within a field of a CSV file, such as \\\\. Default: detected.",
        rich_help_panel=DATA,
    ),
]
EncodingOption = Annotated[
    str | None,
    typer.Option(
        help="Encoding of a text file, such as utf-16-le or windows-1252. Default: UTF-8, or what its byte order mark "
        "says.",
        rich_help_panel=DATA,
    ),
]
