package channel

import (
	"bennu.example/internal/clientlink"
	"bennu.example/push"
	"bennu.example/serializer"
)

// WaitForAuth makes the joins of the channel wait until the client is authenticated: the first one,
// and those after each reconnect. See socket.Client.Auth. While a join waits, it has no timeout. A
// channel that the server ends when the client logs out is joined again after the next login. If
// the server does not authenticate clients in this way, joins do not wait. WaitForAuth must be
// called before Join, and returns the channel.
func (c *Client) WaitForAuth() *Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lives > 0 {
		panic("channel: WaitForAuth was called after Join")
	}
	c.needsAuth = true
	return c
}

// The rest of this file is the part of clientStep about the authentication.

// waitsForAuth reports whether joins wait until the client is authenticated.
func (m *clientState) waitsForAuth() bool {
	switch m.auth {
	case clientlink.AuthGranted:
		return false
	case clientlink.AuthExpired:
		return m.needsAuth || m.isExpired
	}
	return m.needsAuth
}

// authChanged handles a change of the authentication. Joins that wait for it, or that were refused
// without it, begin at once.
func (m *clientMachine) authChanged(a clientlink.Auth) {
	waited := m.waitsForAuth()
	m.auth = a
	granted := a == clientlink.AuthGranted && (m.needsAuth || m.isExpired)
	m.isExpired = m.isExpired && a == clientlink.AuthExpired
	switch {
	case m.status == StateJoining && m.joinRef == 0 && waited != m.waitsForAuth():
		m.armJoin()
		m.add(clientOutput{kind: outNoParams})
		m.requestParams()
	case m.status == StateErrored && m.open && granted && !m.isHeld:
		m.add(clientOutput{kind: outDisarm, timer: timerRejoin})
		m.begin()
	}
}

// armJoin starts the timeout of a join, or stops it if the join waits for the authentication.
func (m *clientMachine) armJoin() {
	kind := outArm
	if m.waitsForAuth() {
		kind = outDisarm
	}
	m.add(clientOutput{kind: kind, timer: timerJoin})
}

// isLogout reports whether the server ended the channel because the client has logged out, perhaps
// with a reason of its own.
func (m *clientMachine) isLogout(msg *serializer.Message) bool {
	return m.auth == clientlink.AuthMissing || (&push.Error{Payload: msg.Payload}).Is(push.Reason(clientlink.LoggedOut))
}
