package longpoll

// Drained is part of transport.Conn.
func (l *localSession) Drained(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || l.s.slow.HasRoom(l.queue) {
		return true
	}
	l.onRoom = f
	return false
}

// roomFunc returns the argument of Drained, if it is due. The caller holds mu, and must call the
// result when it has released mu.
func (l *localSession) roomFunc() (f func()) {
	f = l.onRoom
	if f == nil || !l.ended && !l.s.slow.HasRoom(l.queue) {
		return func() {}
	}
	l.onRoom = nil
	return f
}
