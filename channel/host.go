package channel

import (
	"bennu.example/internal/channelhost"
	"bennu.example/internal/clientlink"
)

// init gives package socket what users do not call. See channelhost for why this is not done by
// exported functions.
func init() {
	channelhost.Start = start
	channelhost.NewClient = func(socket clientlink.Socket, topic string, params any, cfg channelhost.ClientConfig) any {
		return newClient(socket, topic, params, cfg)
	}
}
