package kafka

import (
	"fmt"
	"slices"
	"strings"
)

// This file owns what a worker must be allowed to do, no more and no less.

// ACL is one permission that a worker needs, in the words of Kafka's own tools.
type ACL struct {
	Operation string `json:"operation"` // Read or Write; DescribeConfigs of what is not needed
	Resource  string `json:"resource"`  // Topic, Group or TransactionalId
	Name      string `json:"name"`
	Pattern   string `json:"pattern"` // literal or prefixed
	Why       string `json:"why"`
}

// Access is what one client of a worker touches. Topics may be both read and written.
type Access struct {
	Read             []string // topics
	Write            []string // topics
	Group            string
	TransactionalIDs string // prefix of the transactional ids; empty: no transactions
}

// Access is what a client with this configuration touches. The transactional ids of all workers of the group begin
// alike.
func (c *Config) Access() Access {
	a := Access{Read: c.Topics, Write: c.Outputs, Group: c.Group}
	if c.Guarantee == ExactlyOnce {
		a.TransactionalIDs = c.Group + "."
	}
	return a
}

// ACLs are the permissions for all of the clients together, each once. Describe, which Kafka wants for most of what a
// worker asks, is implied by each of them; IdempotentWrite on the cluster by any Write on a topic (KIP-679).
func ACLs(clients ...Access) []ACL {
	var all []ACL
	add := func(a ACL) {
		if !slices.ContainsFunc(all, func(b ACL) bool {
			return a.Operation == b.Operation && a.Resource == b.Resource &&
				a.Name == b.Name
		}) {
			all = append(all, a)
		}
	}
	for _, c := range clients {
		for _, t := range c.Read {
			add(ACL{"Read", "Topic", t, "literal", "reads records"})
		}
		for _, t := range c.Write {
			add(ACL{"Write", "Topic", t, "literal", "publishes"})
		}
		add(ACL{"Read", "Group", c.Group, "literal", "joins the group and commits its offsets"})
		if c.TransactionalIDs != "" {
			add(ACL{"Write", "TransactionalId", c.TransactionalIDs, "prefixed", "publishes and commits in " +
				"transactions"})
		}
	}
	return all
}

// LooksAt are permissions that none of the clients needs, each once: with them a worker sees what its topics are set
// to (Client.Settings).
func LooksAt(clients ...Access) []ACL {
	var all []ACL
	for _, c := range clients {
		for _, t := range slices.Concat(c.Read, c.Write) {
			a := ACL{"DescribeConfigs", "Topic", t, "literal", "sees max.message.bytes before it writes, and " +
				"validate compares the topics' settings"}
			if !slices.Contains(all, a) {
				all = append(all, a)
			}
		}
	}
	return all
}

// Command is the call of kafka-acls.sh that grants it to a principal, such as User:sluice. connection is what stands
// before it, such as --bootstrap-server kafka:9092.
func (a ACL) Command(connection, principal string) string {
	option := map[string]string{"Topic": "--topic", "Group": "--group",
		"TransactionalId": "--transactional-id"}[a.Resource]
	return fmt.Sprintf("kafka-acls.sh %s --add --allow-principal %s --operation %s %s %s --resource-pattern-type %s",
		connection, quote(principal), a.Operation, option, quote(a.Name), a.Pattern)
}

// quote writes s as one word of a shell.
func quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '-' && r != '_' && r != '.' && r != ':' && r != ',' && r != '=' && r != '/' &&
			(r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
