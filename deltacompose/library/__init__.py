"""Libraries of deltas: many trained deltas of one backbone, with their cards and features."""
