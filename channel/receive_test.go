package channel_test

import (
	"time"

	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/serializer"
)

// receive calls d.Receive, and starts the mailbox if that is pending.
func receive(d channelhost.Channel, m serializer.Message, wait time.Duration) bool {
	return mailbox.Started(d.Receive(m, wait))
}
