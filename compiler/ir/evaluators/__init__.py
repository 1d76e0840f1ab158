"""What each kind of op computes, in torch."""
