"""The classifier of interstitial lung disease: cohorts, real and simulated, and how it is trained and judged."""
