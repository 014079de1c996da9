package mailbox

// WorkersQueueCap returns the number of waiting mailboxes for which c has memory.
func WorkersQueueCap(c *Workers) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue.Cap()
}
