"""Methods that train a reparameterized change of the pretrained parameters."""
