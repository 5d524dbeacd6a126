"""Monitoring: logged predictions against the training rows and, where labels have arrived, against held-out scores."""
