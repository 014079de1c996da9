package push

import "fmt"

// IDsOfOnceMemory returns the number of ids in a store of NewOnceMemory.
func IDsOfOnceMemory(s OnceStore) int { return len(s.(*onceMemory).ids) }

// CheckOnceMemory returns what is inconsistent in a store of NewOnceMemory.
func CheckOnceMemory(s OnceStore) string {
	m := s.(*onceMemory)
	bytes, ids := 0, 0
	for _, client := range m.clients {
		weight := 0
		for e := client.done.Front(); e != nil; e = e.Next() {
			id := e.Value.(*onceID)
			weight += id.weight()
			bytes += len(id.reply)
		}
		if ids += client.ids; client.weight != weight || m.heavy[client.index] != client || client.ids == 0 {
			return fmt.Sprintf("client %s: %+v", client.name, client)
		}
	}
	switch {
	case bytes != m.bytes || bytes > m.maxBytes:
		return fmt.Sprintf("%d bytes, counted %d", bytes, m.bytes)
	case ids != len(m.ids) || len(m.due) != ids || ids > m.maxIDs || len(m.heavy) != len(m.clients):
		return fmt.Sprintf("%d ids: %d, %d due", ids, len(m.ids), len(m.due))
	}
	return ""
}
