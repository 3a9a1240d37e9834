"""The only room that speaks SQL. Returns frozen records; the service owns every transaction."""
