package channel

// Missing is called by the socket, for its Progress: it returns the records that the last join
// found missing and that have not arrived.
func (d clientChannel) Missing() int {
	h := d.c.resume.Load()
	if h == nil {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.total - h.done
}

// Resumes is called by the socket, for its CatchUp: it reports whether Resume was called.
func (d clientChannel) Resumes() bool { return d.c.resume.Load() != nil }
