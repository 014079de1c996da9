package app

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"bennu.example/socket"
)

// verify accepts tokens USER.SECONDS, which are valid for that time from now on.
func verify(_ context.Context, token string, _ *socket.Request) (socket.Grant, error) {
	user, seconds, found := strings.Cut(token, ".")
	n, err := strconv.ParseUint(seconds, 10, 32)
	if !found || user == "" || err != nil {
		return socket.Grant{}, errors.New("the token is not USER.SECONDS")
	}
	return socket.Grant{
		ID: user, Expires: time.Now().Add(time.Duration(n) * time.Second), Claims: map[string]string{"user": user},
	}, nil
}
