package channel

import "bennu.example/internal/channelhost"

// TakeLock takes the lock of a channel and releases it.
func TakeLock(ch channelhost.Channel) {
	c := (*Channel)(ch.(*driver))
	c.mu.Lock()
	defer c.mu.Unlock()
}
