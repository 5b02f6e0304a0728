"""Where batches of work are done. The union is the registry: a new executor is one file here and one name below."""

from pipeline.executors.dask import Dask
from pipeline.executors.local import Local

ExecutorConfig = Local | Dask
