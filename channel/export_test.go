package channel

import (
	"bennu.example/internal/channelhost"
	"bennu.example/push"
)

// TakeLock takes the lock of a channel and releases it.
func TakeLock(ch channelhost.Channel) {
	c := (*Channel)(ch.(*driver))
	c.mu.Lock()
	defer c.mu.Unlock()
}

// HasCancelContext reports whether a channel needed a context that can be cancelled.
func HasCancelContext(ch channelhost.Channel) bool {
	return (*Channel)(ch.(*driver)).made.Load() != nil
}

// OnceFunc returns next behind Once.
func OnceFunc(cfg push.OnceConfig, next Func) Func { return newOnce(cfg, nil).wrap(next) }
