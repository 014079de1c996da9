package redisengine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/redis/rueidis"
)

var errReplica = errors.New("connected to a replica, which does not forward messages to its primary")

// checkRole returns an error if the server is a replica, according to its answer to HELLO. The
// nodes of a Redis Cluster forward what is published at any of them, so their roles do not matter.
func checkRole(hello rueidis.RedisResult) error {
	info, err := hello.ToMap()
	if err != nil {
		return err
	}
	field := func(name string) string {
		m := info[name]
		s, _ := m.ToString()
		return s
	}
	if role := field("role"); role != "replica" && role != "slave" || field("mode") == "cluster" {
		return nil
	}
	return errReplica
}

// movedError reports that another server of a Redis Cluster has the keys.
type movedError struct{ to string }

func (e *movedError) Error() string { return "the keys are at the server " + e.to }

// movedTo returns the error for an answer of the form "MOVED 3999 127.0.0.1:6381".
func movedTo(answer error) error {
	return &movedError{answer.Error()[strings.LastIndexByte(answer.Error(), ' ')+1:]}
}

// address returns the address of the server. If Redis does not know its host, it is the host to
// which c is connected.
func (e *movedError) address(c *conn) string {
	host, port, err := net.SplitHostPort(e.to)
	if err != nil {
		return ""
	}
	if host == "" {
		c.mu.Lock()
		host, _, _ = net.SplitHostPort(c.dialed)
		c.mu.Unlock()
	}
	return net.JoinHostPort(host, port)
}

// primaryOf asks a replica for the address of its primary. It returns "" if the server does not
// name one, for example because the user has no permission for ROLE.
func primaryOf(ctx context.Context, redis rueidis.DedicatedClient) string {
	answer, err := redis.Do(ctx, redis.B().Role().Build()).ToArray()
	if err != nil || len(answer) < 3 {
		return ""
	}
	host, err1 := answer[1].ToString()
	port, err2 := answer[2].AsInt64()
	if err1 != nil || err2 != nil || host == "" || port <= 0 || port > 65535 {
		return ""
	}
	return net.JoinHostPort(host, fmt.Sprint(port))
}

// askSentinels returns the primary's address according to the first Sentinel that answers.
func (b *backend) askSentinels(ctx context.Context, c *conn, addresses []string) (string, error) {
	var failed error
	for _, address := range addresses {
		primary, err := b.askSentinel(ctx, c, address)
		if err == nil {
			return primary, nil
		}
		failed = errors.Join(failed, fmt.Errorf("sentinel %s: %w", address, err))
		if ctx.Err() != nil {
			break
		}
	}
	return "", failed
}

func (b *backend) askSentinel(ctx context.Context, c *conn, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	opts := b.opts
	s := opts.Sentinel
	opts.Dialer, opts.TLSConfig = s.Dialer, s.TLSConfig
	opts.Username, opts.Password, opts.ClientName, opts.SelectDB = s.Username, s.Password, s.ClientName, 0
	opts.AuthCredentialsFn = nil
	if opts.Dialer.Timeout == 0 {
		opts.Dialer.Timeout = b.timeout
	}
	strict := c.strict
	c.strict = false // the connection to the Sentinel ends here
	defer func() { c.strict = strict }()
	client, err := b.client(ctx, c, opts, address)
	if err != nil {
		return "", err
	}
	defer client.Close()
	command := client.B().SentinelGetMasterAddrByName().Master(s.MasterSet).Build()
	answer, err := client.Do(ctx, command).ToArray()
	switch {
	case rueidis.IsRedisNil(err):
		return "", fmt.Errorf("unknown master set %q", s.MasterSet)
	case err != nil:
		return "", err
	case len(answer) != 2:
		return "", errors.New("malformed answer")
	}
	host, err1 := answer[0].ToString()
	port, err2 := answer[1].ToString()
	return net.JoinHostPort(host, port), errors.Join(err1, err2)
}
