"""Pretrained models as named places: loading, tables for unknown families, test models."""

from deltacompose.backbone.backbone import Backbone, Part, Place, Stream, bind

__all__ = ["Backbone", "Part", "Place", "Stream", "bind"]
