package longpoll

// Drained is part of Conn.
func (l *localSession) Drained(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || l.s.slow.Quiet(l.queue) {
		return true
	}
	l.quiet = f
	return false
}

// becameQuiet returns the function that Drained was given, if it is due. The caller holds mu, and
// calls the result when it has released mu.
func (l *localSession) becameQuiet() (f func()) {
	f = l.quiet
	if f == nil || !l.ended && !l.s.slow.Quiet(l.queue) {
		return func() {}
	}
	l.quiet = nil
	return f
}
