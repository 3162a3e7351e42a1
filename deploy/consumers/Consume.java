import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeSet;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Prints each denied connection once: id, verdict, who, to where, which policies isolate.
 *
 * <p>usage: java -cp 'JARS/*' Consume.java BROKERS TOPIC GROUP, where JARS has kafka-clients, slf4j-api and
 * jackson-databind with what it needs.
 */
public class Consume {
  public static void main(String[] args) throws Exception {
    Properties settings = new Properties();
    settings.put("bootstrap.servers", args[0]);
    settings.put("group.id", args[2]);
    settings.put("auto.offset.reset", "earliest");
    settings.put("enable.auto.commit", "false");
    settings.put("session.timeout.ms", "6000");
    ObjectMapper json = new ObjectMapper();
    Map<String, Numbers> seen = new HashMap<>();
    try (KafkaConsumer<String, String> consumer =
        new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
      consumer.subscribe(List.of(args[1]));
      while (true) {
        ConsumerRecords<String, String> records = consumer.poll(Duration.ofSeconds(1));
        for (ConsumerRecord<String, String> record : records) {
          JsonNode flow = json.readTree(record.value());
          String id = flow.get("id").asText();
          int dash = id.lastIndexOf('-');
          boolean inward = flow.get("connection").get("direction").asText().equals("ingress");
          String uid = flow.get(inward ? "dest" : "src").path("pod_uid").asText(record.key());
          long number = Long.parseLong(id.substring(dash + 1));
          String subject = id.substring(0, dash) + "/" + uid;
          if (seen.computeIfAbsent(subject, key -> new Numbers()).isNew(number)) System.out.println(line(flow));
        }
        System.out.flush();
        // After they are printed: a crash repeats, and loses nothing.
        try {
          if (!records.isEmpty()) consumer.commitSync();
        } catch (CommitFailedException | RebalanceInProgressException error) {
          // The group took this member for dead, because it sent no heartbeat for the session's six seconds, for
          // instance on a machine that was too busy. The records come again, to this member or to another one.
          System.err.println(error.getMessage());
        }
      }
    }
  }

  /**
   * The last numbers of one ring and pod. They rise, but one that a broker refused at first comes after later ones: so
   * the numbers are remembered, and not only the highest.
   */
  private static class Numbers {
    private final TreeSet<Long> numbers = new TreeSet<>();
    private long forgotten = -1;

    boolean isNew(long number) {
      if (number <= forgotten || !numbers.add(number)) return false;
      if (numbers.size() > 10_000) forgotten = numbers.pollFirst();
      return true;
    }
  }

  private static String line(JsonNode flow) {
    List<String> policies = new ArrayList<>();
    for (String key : List.of("isolated_by", "policies"))
      for (JsonNode policy : flow.get(key)) policies.add(policy.get("name").asText());
    return String.join(
        "\t",
        flow.get("id").asText(),
        flow.get("disposition").asText(),
        end(flow.get("src")),
        end(flow.get("dest")) + ":" + flow.get("connection").path("dest_port").asText(""),
        String.join(",", policies));
  }

  /** A pod, a node, or an address. */
  private static String end(JsonNode side) {
    if (side.has("pod_name")) return side.get("namespace").asText() + "/" + side.get("pod_name").asText();
    return side.path("node_name").asText(side.path("instance").asText("?"));
  }
}
