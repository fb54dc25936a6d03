"""Who holds a page: where in memory its address stands, and what that place belongs to."""
