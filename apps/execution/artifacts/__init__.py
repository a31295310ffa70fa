"""Files that agents make: how they are saved, stored, recorded with their task, read, and swept."""
