"""What the studies on texts share: networks, training and report."""
