"""Methods that train some of the pretrained parameters."""
