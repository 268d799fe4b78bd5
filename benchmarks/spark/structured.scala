// Queries of Structured Streaming. Says for each batch: BATCH <id> <rows> <milliseconds from its trigger to its commit>.
//
//   structured kafka BROKERS TOPIC ROWS_PER_BATCH running|batch
//   structured files FOLDER FILES_PER_BATCH running|batch
//   structured employees FOLDER once|stay
//   structured state FOLDER FILES_PER_BATCH CHECKPOINT
//
// The first two count words: `running` keeps running counts, as a streaming aggregation does; `batch` counts every batch by itself, as DStreams do.
// `employees` counts employees by job, a file a batch, and prints a table; `stay` waits for more files. `state` counts rows by a number, in RocksDB.
import java.nio.file.Files

import org.apache.spark.sql.{DataFrame, SparkSession}
import org.apache.spark.sql.functions.{col, explode, split}
import org.apache.spark.sql.streaming.{DataStreamWriter, StreamingQueryListener, Trigger}
import org.apache.spark.sql.streaming.StreamingQueryListener._

object Words {
  val employees = "emp_id INT, emp_name STRING, job_name STRING, manager_id INT, salary DOUBLE, dept_name STRING"

  def count(lines: DataFrame): DataFrame =
    lines.select(explode(split(col("value"), " ")).as("word")).groupBy("word").count()

  def words(lines: DataFrame, kind: String): DataStreamWriter[_] = kind match {
    case "running" => count(lines).writeStream.outputMode("update").format("noop")
    case "batch" =>
      val each: (DataFrame, Long) => Unit = (batch, _) => count(batch).write.format("noop").mode("overwrite").save()
      lines.writeStream.foreachBatch(each)
  }

  def main(args: Array[String]): Unit = {
    val spark = SparkSession.builder().appName("words").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    spark.streams.addListener(new StreamingQueryListener {
      override def onQueryStarted(event: QueryStartedEvent): Unit = {}
      override def onQueryTerminated(event: QueryTerminatedEvent): Unit = {}
      override def onQueryProgress(event: QueryProgressEvent): Unit = {
        val batch = event.progress
        println(s"BATCH ${batch.batchId} ${batch.numInputRows} ${batch.durationMs.get("triggerExecution")}")
        System.out.flush()
      }
    })
    val writer: DataStreamWriter[_] = args(0) match {
      case "kafka" =>
        words(spark.readStream.format("kafka").option("kafka.bootstrap.servers", args(1)).option("subscribe", args(2))
          .option("startingOffsets", "earliest").option("maxOffsetsPerTrigger", args(3)).load()
          .select(col("value").cast("string").as("value")), args.last)
      case "files" => words(spark.readStream.format("text").option("maxFilesPerTrigger", args(2)).load(args(1)), args.last)
      case "employees" =>
        spark.readStream.schema(employees).option("header", true).option("maxFilesPerTrigger", "1").csv(args(1))
          .groupBy("job_name").count().writeStream.outputMode("complete").format("console")
      case "state" =>
        spark.conf.set("spark.sql.streaming.stateStore.providerClass", "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider")
        spark.readStream.schema("id BIGINT").option("maxFilesPerTrigger", args(2)).csv(args(1))
          .groupBy("id").count().writeStream.outputMode("update").format("noop")
    }
    val checkpoint = if (args(0) == "state") args(3) else Files.createTempDirectory("words").toString
    val stays = args.last == "stay"
    val query = writer.option("checkpointLocation", checkpoint)
      .trigger(if (stays) Trigger.ProcessingTime(0) else Trigger.AvailableNow()).start()
    query.awaitTermination()
    spark.stop()
    println("END")
  }
}
