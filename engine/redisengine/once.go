package redisengine

import (
	"context"
	"errors"
	"time"

	"bennu.example/internal/oncetable"
	"bennu.example/push"
)

var errMalformedOnce = errors.New("redisengine: malformed answer about Once")

// onceStore implements push.OnceStore by one script for each operation. It uses the connection of
// the wills. The ids of a client and topic have three keys, which expire by themselves.
type onceStore struct{ wills *wills }

// Once returns the store for push.OnceConfig. Every call returns the same store. It needs a
// connection, which it shares with Wills, while PubSub.Run runs with the engine's Adapter, and more
// permissions than the adapter: see the package documentation.
func (e *Engine) Once() push.OnceStore {
	e.wills.wanted.Store(true)
	return onceStore{e.wills}
}

// call runs a script for a key of Once.
func (s onceStore) call(
	ctx context.Context, script *script, key string, args ...string,
) (what, reply string, err error) {
	_, owner := oncetable.Split(key)
	base := s.wills.onceBase
	keys := []string{base + "e:" + owner, base + "v:" + owner, base + "u:" + owner}
	answer, err := s.wills.call(ctx, script, keys, append([]string{key}, args...))
	if err != nil {
		return "", "", err
	}
	if len(answer) != 2 {
		return "", "", errMalformedOnce
	}
	what, err = answer[0].ToString()
	if err == nil {
		reply, err = answer[1].ToString()
	}
	if err != nil {
		return "", "", errMalformedOnce
	}
	return what, reply, nil
}

// Begin is part of push.OnceStore.
func (s onceStore) Begin(
	ctx context.Context, key, holder string, lease time.Duration,
) (mine bool, reply []byte, err error) {
	what, text, err := s.call(ctx, onceClaimScript, key, holder, milliseconds(lease))
	switch {
	case err != nil:
		return false, nil, err
	case what == "done":
		return false, []byte(text), nil
	case what == "full":
		return false, nil, push.ErrTooManyIDs
	}
	return what == "mine", nil, nil
}

// Finish is part of push.OnceStore.
func (s onceStore) Finish(
	ctx context.Context, key, _ string, reply []byte, window time.Duration,
) (counts []byte, err error) {
	what, text, err := s.call(ctx, onceFinishScript, key, string(reply), milliseconds(window))
	switch {
	case err != nil:
		return nil, err
	case what != "done":
		return nil, push.ErrTooManyIDs
	}
	return []byte(text), nil
}

// Release is part of push.OnceStore.
func (s onceStore) Release(ctx context.Context, key, holder string) error {
	_, _, err := s.call(ctx, onceReleaseScript, key, holder)
	return err
}
