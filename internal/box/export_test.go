package box

// CrewRoom is how many boxes find room to wait for c without more memory.
func CrewRoom(c *Crew) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cap(c.queue.all)
}
