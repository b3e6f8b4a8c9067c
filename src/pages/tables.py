"""conf/table/<name>.yaml with its frame -> rows, and rows -> csv, Markdown, LaTeX, html."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base.errors import UserError
from src.base.frames import Field, csv_text, load_schemas, read_frame, read_yaml, shared_columns

if TYPE_CHECKING:
    import jinja2
    import pandas as pd


MISSING = "–"
HASH_DIGITS = 12
TEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "–": "--", "−": "$-$", "₁": "$_1$", "₀": "$_0$", "√": r"$\surd$", "κ": r"$\kappa$",
}  # fmt: skip

TEX_CODES = {ord(char): tex for char, tex in TEX.items()}


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _p_value(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}"


def _list(value: Any) -> str:
    return ", ".join(value.split(";") if isinstance(value, str) else map(str, value))


FORMATS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "prose": str,
    "name": str,
    "list": _list,
    "count": lambda value: f"{value:,.0f}",
    "share": lambda value: f"{value:.3f}",
    "number": lambda value: f"{value:.4g}",
    "factor": lambda value: f"{value:.3g}",
    "millions": lambda value: f"{value / 1e6:,.0f}",
    "signed": _signed,
    "p": _p_value,
    "verdict": lambda value: "yes" if value else "no",
    "hash": lambda value: str(value)[:HASH_DIGITS],
}

PRINTED = ("header", "format", "meaning")  # what a table takes from the schema of its frame
NUMERIC = {"count", "share", "number", "factor", "millions", "signed", "p"}


@dataclass(frozen=True)
class Column:
    """One column of a table: a column of its frame, and how a reader sees it."""

    name: str
    header: str
    format: str = "text"
    meaning: str = ""
    page: bool = True  # also on the page, not only in the files


@dataclass(frozen=True)
class Table:
    """conf/table/<name>.yaml."""

    name: str
    title: str
    caption: str
    frame: str  # a path (see `read_frame`)
    columns: tuple[Column, ...]
    where: str | None = None  # pandas query
    page_where: str | None = None  # the rows the page shows, where these are fewer than the files hold
    sort: tuple[str, ...] = ()  # "-column" is descending
    join: Mapping[str, Any] | None = None  # see `joined`
    derive: Mapping[str, str] | None = None  # further columns, as pandas expressions
    beside: str | None = None  # which published figure stands beside it
    quotes_data: bool = False  # True: a DVC output, never in git
    optional: bool = False  # True: no table where the frame does not exist


def load_tables(root: Path) -> list[Table]:
    """Every conf/table/<name>.yaml, by name. Raises UserError on an unknown key, column or format."""
    shared, schemas = shared_columns(root), load_schemas(root)
    frames = {file: schema.columns for schema in schemas.values() for file in schema.files}
    paths = sorted((root / "conf/table").glob("[!_]*.yaml"))
    return [_table(path, shared, frames) for path in paths]


def _table(path: Path, shared: Mapping[str, Mapping[str, Any]], frames: Mapping[str, Sequence[Field]]) -> Table:
    fields = dict(read_yaml(path))
    joined_frame = (fields.get("join") or {}).get("frame", "")
    known = dict(shared)
    for frame in (joined_frame, fields.get("frame", "")):
        known |= {field.name: asdict(field) for field in frames.get(frame, ())}
    columns = tuple(_column(path, column, known) for column in fields.pop("columns", ()))
    try:
        return Table(name=path.stem, columns=columns, **{**fields, "sort": tuple(fields.get("sort", ()))})
    except TypeError as error:
        raise UserError(f"{path}: {str(error).replace('Table.__init__()', 'a table')}") from None


def _column(path: Path, column: str | Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> Column:
    override = {"name": column} if isinstance(column, str) else dict(column)
    name = override.pop("name")
    declared = {key: value for key in PRINTED if (value := known.get(name, {}).get(key))}
    fields = {"header": name.replace("_", " "), **declared, **override}
    if fields.get("format", "text") not in FORMATS:
        raise UserError(f"{path}: column {name} has format {fields['format']!r}. Known: {', '.join(FORMATS)}.")
    return Column(name=name, **fields)


def rows_of(root: Path, table: Table) -> pd.DataFrame:
    """The rows of a table with every column of its frame, filtered and sorted.

    Raises UserError if the frame, or a column the table names, does not exist.
    """
    frame = read_frame(root, table.frame)
    if table.join:
        frame = joined(root, frame, table.join)
    for name, expression in (table.derive or {}).items():
        frame = frame.assign(**{name: frame.eval(expression)})
    _demand(table, frame, [column.name for column in table.columns])
    if table.where:
        frame = frame.query(table.where, engine="python")
    by = [key.removeprefix("-") for key in table.sort]
    _demand(table, frame, by)
    if by:
        frame = frame.sort_values(by, ascending=[not key.startswith("-") for key in table.sort], kind="stable")
    return frame.reset_index(drop=True)


def joined(root: Path, frame: pd.DataFrame, join: Mapping[str, Any]) -> pd.DataFrame:
    """The frame with some columns of another; join: {frame, match: {column here: column there}, columns}."""
    other = read_frame(root, join["frame"])
    there = [*join["match"].values(), *join["columns"]]
    missing = sorted(set(there) - set(other.columns))
    if missing:
        raise UserError(f"{join['frame']} has no column {', '.join(missing)}. It has: {', '.join(other.columns)}.")
    other = other[there].rename(columns={right: left for left, right in join["match"].items()})
    return frame.merge(
        other.drop_duplicates(list(join["match"])), on=list(join["match"]), how="left", validate="many_to_one"
    )


def _demand(table: Table, frame: pd.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise UserError(
            f"conf/table/{table.name}.yaml names column {', '.join(missing)}, which {table.frame} does not have. "
            f"It has: {', '.join(map(str, frame.columns))}."
        )


def is_missing(value: Any) -> bool:
    """True for None, NaN and NA; a list is never missing."""
    import pandas as pd

    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def shown(rows: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """The same rows as strings, as a reader sees them."""

    def text(column: Column, value: Any) -> str:
        return MISSING if is_missing(value) else FORMATS[column.format](value)

    import pandas as pd

    return pd.DataFrame({c.name: [text(c, value) for value in rows[c.name]] for c in columns}, dtype=object)


def to_csv(rows: pd.DataFrame, table: Table) -> str:
    """As `frames.csv_text` writes it, lists as words."""
    names = [column.name for column in table.columns]
    cells = rows[names].map(lambda value: ", ".join(map(str, value)) if isinstance(value, list) else value)
    return csv_text(cells)


def to_md(rows: pd.DataFrame, table: Table) -> str:
    """A pipe table under its title and caption."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(_md(cell) for cell in cells)} |"

    rule = f"|{'|'.join(' ---: ' if c.format in NUMERIC else ' --- ' for c in table.columns)}|"
    body = [line(list(row)) for row in shown(rows, table.columns).itertuples(index=False)]
    notes = [_md(note) for note in (table.caption, table.beside) if note]
    return "\n".join(
        [f"# {_md(table.title)}", "", *notes, "", line([c.header for c in table.columns]), rule, *body, ""]
    )


def _md(text: str) -> str:
    escaped = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([|\\`*\[\]])", r"\\\1", escaped)


def to_html(rows: pd.DataFrame, table: Table) -> str:
    """A page of its own, for a browser or a word processor."""
    notes = " ".join(note for note in (table.caption, table.beside) if note)
    lines = [list(zip(table.columns, line, strict=True)) for line in shown(rows, table.columns).itertuples(index=False)]
    page = environment().get_template("table_alone.html.j2")
    text = page.render(table=table, columns=table.columns, rows=lines, notes=notes, numeric=NUMERIC)
    return "\n".join(line.rstrip() for line in text.removesuffix("\n").split("\n")) + "\n"


def environment(filters: Mapping[str, Callable[..., Any]] | None = None) -> jinja2.Environment:
    """The templates of tables and page. Autoescape is on: what comes from data shows as text, never as markup."""
    return _environment(tuple((filters or {}).items()))


@cache
def _environment(filters: tuple[tuple[str, Callable[..., Any]], ...]) -> jinja2.Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {name: lambda value, form=form: MISSING if is_missing(value) else form(value)
                     for name, form in FORMATS.items() if name not in ("list",)}  # fmt: skip
    made.filters["quoted"] = lambda text: Markup(html.escape(text))  # &#x27; and &quot;
    made.filters.update(filters)
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return made


def to_tex(rows: pd.DataFrame, table: Table) -> str:
    """A LaTeX longtable (packages longtable, booktabs) with its title as caption."""
    frame = shown(rows, table.columns).set_axis([column.header for column in table.columns], axis=1).map(_tex)
    frame.columns = frame.columns.map(_tex)
    sides = "".join("r" if column.format in NUMERIC else "l" for column in table.columns)
    return str(
        frame.to_latex(index=False, escape=False, longtable=True, column_format=sides, caption=_tex(table.title))
    )


def _tex(text: str) -> str:
    return " ".join(text.split()).translate(TEX_CODES)


WRITERS: dict[str, Callable[[Any, Table], str]] = {"csv": to_csv, "md": to_md, "tex": to_tex, "html": to_html}


def write_table(rows: pd.DataFrame, table: Table, folder: Path) -> None:
    """<folder>/<name>.{csv,md,tex,html}."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, render in WRITERS.items():
        (folder / f"{table.name}.{suffix}").write_text(render(rows, table), encoding="utf-8")


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dicts, missing values as None."""
    return [{str(k): None if is_missing(v) else v for k, v in row.items()} for row in rows.to_dict("records")]
