package redisengine

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"bennu.example/history"
)

var errAnswer = errors.New("malformed answer")

// texts returns an array of strings.
func texts(r rueidis.RedisResult) ([]string, error) {
	items, err := r.ToArray()
	if err != nil {
		return nil, err
	}
	all := make([]string, len(items))
	for i := range items {
		if all[i], err = items[i].ToString(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// head is what the script stores of a record beside its bytes: the tag, the tag of the record
// before it, the time, the size of the payload, and the sum of the sizes up to this record.
type head struct {
	tag, prev string
	time      int64 // Unix milliseconds
}

func parseHead(text string) (head, error) {
	fields := strings.Split(text, " ")
	if len(fields) != 5 {
		return head{}, errAnswer
	}
	ms, err := strconv.ParseInt(fields[2], 10, 64)
	return head{fields[0], fields[1], ms}, err
}

// complete sets what the script has determined: Position, Prev and Time. The fields are the epoch,
// the offset and the head.
func complete(r *history.Record, fields ...string) error {
	if len(fields) != 3 {
		return errAnswer
	}
	offset, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil || offset == 0 {
		return errAnswer
	}
	h, err := parseHead(fields[2])
	if err != nil {
		return err
	}
	r.Time = time.UnixMilli(h.time)
	if r.Position, err = history.NewPosition(fields[0], offset, h.tag); err != nil {
		return err
	}
	r.Prev, err = history.NewPosition(fields[0], offset-1, h.prev)
	return err
}

// parseFed parses a published record: the epoch, the offset, the head, and the record.
func parseFed(data string) (r history.Record, err error) {
	fields := strings.SplitN(data, " ", 8)
	if len(fields) != 8 {
		return r, errAnswer
	}
	body := fields[7]
	if r, err = history.ParseRecord([]byte(body)); err != nil {
		return r, err
	}
	return r, complete(&r, fields[0], fields[1], strings.Join(fields[2:7], " "))
}
