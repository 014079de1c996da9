package mailbox

// WorkersQueueCap is how many mailboxes find room to wait for c without more memory.
func WorkersQueueCap(c *Workers) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cap(c.queue.all)
}
