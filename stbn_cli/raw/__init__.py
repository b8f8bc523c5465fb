"""Raw footage: mosaics as a sensor delivers them, their files, and their noise."""
