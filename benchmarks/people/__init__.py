"""The shape of DataScript's own benchmark: 20,000 persons with five attributes, a unique number added for lookups."""
