package app

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"bennu.example/push"
	"bennu.example/socket"
)

// bans are the reasons why users are refused finally.
type bans struct{ users sync.Map }

// Ban refuses the tokens of a user finally, with a reason. Connections that are open go on until
// their tokens expire.
func (a *App) Ban(user, reason string) { a.bans.users.Store(user, reason) }

// Revoke is Ban, and ends the user's connections.
func (a *App) Revoke(ctx context.Context, user, reason string) error {
	a.Ban(user, reason)
	return a.socket.Revoke(ctx, user, push.Reason(reason))
}

// verify accepts tokens USER.SECONDS, which are valid for that time from now on.
func (b *bans) verify(_ context.Context, token string, _ *socket.Request) (socket.Grant, error) {
	user, seconds, found := strings.Cut(token, ".")
	n, err := strconv.ParseUint(seconds, 10, 32)
	if !found || user == "" || err != nil {
		return socket.Grant{}, errors.New("the token is not USER.SECONDS")
	}
	if reason, banned := b.users.Load(user); banned {
		return socket.Grant{}, &socket.Refusal{Final: true, Body: reason.(string)}
	}
	return socket.Grant{
		ID: user, Expires: time.Now().Add(time.Duration(n) * time.Second), Claims: map[string]string{"user": user},
	}, nil
}
