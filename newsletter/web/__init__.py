"""The site that readers meet: subscribe, confirm, preferences, leaving. It writes only through services."""
