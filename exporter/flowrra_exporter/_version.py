"""The version of the distribution. It stands here too, since the exporter also runs beside other flowrras."""

__version__ = "0.2.0"
