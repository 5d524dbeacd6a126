"""One reader a source format; ``read_source`` chooses by the settings."""

from __future__ import annotations

from contextlib import ExitStack

from components.ingest.locations import local_copy
from components.ingest.readers.export import read_export
from components.ingest.readers.fhir import read_fhir
from components.ingest.readers.meds import read_meds
from components.ingest.readers.physionet2012 import read_physionet2012
from components.ingest.readers.table_one import read_table_one
from components.ingest.rejections import Rejections
from components.ingest.settings import FhirSource, MedsSource, PhysioNet2012Source, Source, TableOneSource
from components.ingest.source_tables import SourceTables
from data_schemas.channels import Catalogue


def read_source(source: Source, stack: ExitStack, catalogue: Catalogue, rejections: Rejections) -> SourceTables:
    """Read one source, local or on S3.

    Args:
        source: Its settings.
        stack: Removes temporary copies when it closes.
        catalogue: Maps the source's codes to channels.
        rejections: Takes the rows that cannot be used.

    Returns:
        Its tables.

    Raises:
        InputError: The source is not there or cannot be used.
    """
    path = local_copy(source.path, stack)
    if isinstance(source, PhysioNet2012Source):
        outcomes = local_copy(source.outcomes, stack) if source.outcomes else None
        return read_physionet2012(source, path, outcomes, catalogue, rejections)
    if isinstance(source, FhirSource):
        return read_fhir(source, path, catalogue, rejections)
    if isinstance(source, MedsSource):
        return read_meds(source, path, catalogue, rejections)
    if isinstance(source, TableOneSource):
        return read_table_one(source, path, catalogue, rejections)
    return read_export(path, catalogue, rejections)
