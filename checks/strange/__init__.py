"""The parts of `checks/stranger.py`: each is told what it may use, and says what it left out."""
